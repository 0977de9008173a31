"""Where the project lies: tests start its scripts from here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
