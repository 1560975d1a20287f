"""What tests of several stages share: commands, comparisons, small data sets, source layouts, stores."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
