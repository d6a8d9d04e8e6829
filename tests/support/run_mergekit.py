"""Merges with mergekit what standard input asks for, as JSON [{"config": ..., "out": ...}, ...].

Run by test_mergekit_parity with the Python that has mergekit, which may lack tallies.
"""

from __future__ import annotations

import json
import sys

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
for request in json.load(sys.stdin):
    run_merge(MergeConfiguration.model_validate(request["config"]), request["out"], options)
