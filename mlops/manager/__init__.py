"""`MLOpsManager`: one object for registering, deploying, monitoring and looking up models.

A file holds one subject, and `MLOpsManager` puts them together.
"""

from mlops.manager.ab_tests import AbTests
from mlops.manager.lookups import LookUps
from mlops.manager.model_files import ModelFiles
from mlops.manager.monitoring import Monitoring
from mlops.manager.rollouts import Rollouts
from mlops.manager.services import Services

__all__ = ["MLOpsManager"]


class MLOpsManager(ModelFiles, Rollouts, Monitoring, AbTests, LookUps, Services):
    """Register models, roll them out and back, monitor them, look them up.

    Store and MLflow are opened on first use.
    """
