"""One whole run of the smallest configuration, and fresh roots that continue from parts of it."""

import shutil

import pytest

from tests.stages.running import Aef, free_port


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """``aef run`` to its end: the command line of its root, and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    aef = Aef(root, root / "sandbox", free_port())
    done = aef.run("run")
    assert done.status == 0, done.err + done.out[-3000:]
    return aef, done


@pytest.fixture
def continued(finished, tmp_path):
    """A fresh root with some folders of the finished run, on the same synthetic Earth."""
    whole, _ = finished

    def _continued(*folders, root=None):
        root = root or tmp_path / "root"
        for folder in folders:
            shutil.copytree(whole.root / folder, root / folder)
        return Aef(root, whole.sandbox, whole.port)

    return _continued
