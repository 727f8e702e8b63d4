from .reading import LAYOUTS as LAYOUTS
from .reading import Layout as Layout
from .reading import count_cases as count_cases
from .reading import make_cohort as make_cohort
from .reading import read_cohort as read_cohort
from .reading import register as register
