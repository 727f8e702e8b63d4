from .base import Layout as Layout
from .base import make_cohort as make_cohort
from .base import register as register
from .reading import find_anatomy as find_anatomy
from .reading import holds_signals as holds_signals
from .reading import is_plain_folder as is_plain_folder
from .reading import read_cohort as read_cohort
