"""A small part of the campaign: damaged files of every format are refused with a sentence, and nothing else happens."""

import pytest
from campaign import NAMES, campaign
from formats import FORMATS


def test_the_campaign_knows_every_format() -> None:
    assert set(NAMES) == set(FORMATS)


@pytest.mark.slow
def test_damaged_files_are_refused_with_a_sentence() -> None:
    outcomes, findings = campaign(count=10 * len(NAMES), seed=20261129)
    assert sum(outcomes.values()) == 10 * len(NAMES)
    assert findings == []
