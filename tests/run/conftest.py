import sys
from pathlib import Path

# Spawned processes import the functions of `crew_jobs` by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))
