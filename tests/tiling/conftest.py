import sys
from pathlib import Path

# Spawned processes import the functions and slides of `memory_slides` by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))
