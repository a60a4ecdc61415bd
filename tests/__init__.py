"""The tests; their helpers import each other by plain names, so tests/support is on the path."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
