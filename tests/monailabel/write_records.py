"""Records values of a study in a folder of studies, as one of several processes at once.

Run by the label environment's python as ``python write_records.py <app> <folder> <study> <count>
<new study> ...``; ends when it knows the new studies as well.
"""

import sys
import time

app, folder, study, count, *new = sys.argv[1:]
sys.path.insert(0, app)

from lib.datastore import Studies  # noqa: E402

studies = Studies(folder)
for number in range(int(count)):
    studies.record(study, {f"value{number}": number})
end = time.monotonic() + 20
while not all(map(studies.known, new)) and time.monotonic() < end:
    time.sleep(0.1)
missing = [one for one in new if not studies.known(one)]
sys.exit(f"not seen: {missing}" if missing else 0)
