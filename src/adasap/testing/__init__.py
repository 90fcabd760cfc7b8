"""Contract suites: what every corruption, perturbation, suite and task must do, to be run by pytest on one of your own.

Each is a class of tests that asks for one fixture. Derive from it under a name that begins with `Test`:

    class TestPosterize(CorruptionContract):
        @pytest.fixture
        def corruption(self):
            return "posterize"
"""

from adasap.testing.corruption import CorruptionContract
from adasap.testing.perturbation import PerturbationContract
from adasap.testing.suite import SuiteContract
from adasap.testing.task import TaskCase, TaskContract

__all__ = ["CorruptionContract", "PerturbationContract", "SuiteContract", "TaskCase", "TaskContract"]
