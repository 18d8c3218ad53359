"""Copies of an installation: taken while it works, checked, and put back elsewhere."""

from mlops.backup.check import find_problems
from mlops.backup.restore import restore_backup
from mlops.backup.take import take_backup

__all__ = ["find_problems", "restore_backup", "take_backup"]
