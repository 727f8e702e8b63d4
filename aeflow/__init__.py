"""AE-Flow: unsupervised anomaly detection in medical images, in Python and on the command line."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
