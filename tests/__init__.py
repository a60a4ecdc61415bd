"""The tests; their helpers import each other by plain names, so this folder is on the path."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
