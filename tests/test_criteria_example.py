"""The example of a user's own criterion runs as it is printed."""

from __future__ import annotations

import runpy

import pytest


@pytest.mark.slow
def test_own_criterion(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(pytestconfig.rootpath / "examples" / "own_criterion.py"), run_name="__main__")
    printed = capsys.readouterr().out
    macs = next(line for line in printed.splitlines() if line.startswith("MACs: "))
    kept, dense = (float(number.replace(",", "")) for number in macs.removeprefix("MACs: ").split(" of "))
    assert 0.49 * dense < kept <= 0.5 * dense
    assert "output: (2, 10)" in printed


def test_the_function_in_the_documentation_scores_every_group(pytestconfig: pytest.Config) -> None:
    from criteria_nets import plain_net

    text = (pytestconfig.rootpath / "docs" / "criteria.md").read_text()
    namespace: dict[str, object] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], namespace)
    net, groups = plain_net()
    scores = namespace["criterion"].score(net, groups, None)  # type: ignore[attr-defined]
    assert scores["conv1"].tolist() == net.conv1.weight.detach().abs().amax((1, 2, 3)).tolist()
