"""Which cases there are, how they are divided, and the slices cut from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
