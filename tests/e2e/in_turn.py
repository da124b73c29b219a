"""`torchrun ... -m tests.e2e.in_turn FILE`: run the commands of a JSON file in processes that start only once."""

import json
import sys
from pathlib import Path

from svkit.cli.app import app
from tests.processes import leave
from tests.training_experiment import one_process

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        with one_process():
            app(words, standalone_mode=False)
    leave()
