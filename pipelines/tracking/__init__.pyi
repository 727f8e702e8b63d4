from .address import masked as masked
from .epochs import EpochReport as EpochReport
from .errors import describe as describe
from .errors import mistake_of as mistake_of
from .outbox import UNTRACKED as UNTRACKED
from .tracker import Tracker as Tracker
