"""Nothing is lost and nothing comes twice, wherever a sweep, a job or a click dies and wherever it is doubled."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.template.loader import get_template
from django.urls import reverse
from django.utils import translation

from tests.panel.disturbing import Theatre
from tests.panel.plays import PLAYS
from tests.panel.stage import Ending

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture(scope="module")
def empty(migrated: Path) -> Path:
    """A database with tables only. Whatever the plays' processes would each load anew is loaded now."""
    reverse("home")
    get_template("notices/rental_ended_message.html")
    with translation.override("zh-hans"):
        translation.gettext("home")
    return migrated


@pytest.fixture(scope="module")
def theatre(
    request: pytest.FixtureRequest,
    empty: Path,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: Any,
) -> Iterator[Theatre]:
    """Where the play of that name was played once, undisturbed."""
    # Tests that ran before in this process may have made images for all that follow; in the plays there are none.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "IMAGE_DIR", tmp_path_factory.mktemp("no-images"))
        with django_db_blocker.unblock():
            made = Theatre(tmp_path_factory.mktemp("theatre"), empty, PLAYS[request.param])
        assert made.undisturbed.result == made.play.result
        yield made
        made.close()


def expect_doubt(ending: Ending, undisturbed: Ending, *, is_sent: bool) -> None:
    """Only that one message was in somebody's hand: it is shown as failed and sent once at most, and nothing else differs."""
    notices, others = ending.notices(), undisturbed.notices()
    differing = [pk for pk, notice in notices.items() if notice["state"] != others[pk]["state"]]
    assert [notices[pk]["state"] for pk in differing] == ["failed"]
    for notice in (*notices.values(), *others.values()):
        for name in ("state", "error", "address"):
            del notice[name]
    assert notices == others
    rows = [
        [row for row in rows if not row.startswith("accounts_notice ")]
        for rows in (ending.rows, undisturbed.rows)
    ]
    assert rows[0] == rows[1]
    missing = Counter(undisturbed.sent) - Counter(ending.sent)
    assert not Counter(ending.sent) - Counter(undisturbed.sent)
    assert missing.total() == (0 if is_sent else 1)


@pytest.mark.parametrize("theatre", PLAYS, indirect=True, scope="module")
def test_it_ends_the_same_when_it_is_killed_or_doubled_at_any_step(theatre: Theatre) -> None:
    def check_killed(number: int, ending: Ending) -> None:
        step, before = theatre.steps[number], theatre.steps[number - 1] if number else None
        if step.is_telling or (before and before.is_telling):
            expect_doubt(ending, theatre.undisturbed, is_sent=not step.is_telling)
        else:
            assert ending == theatre.undisturbed, f"killed before step {number}: {step}"

    def check_doubled(number: int, ending: Ending) -> None:
        assert ending == theatre.undisturbed, f"doubled at step {number}: {theatre.steps[number]}"

    theatre.disturb_everywhere(check_killed, check_doubled)


@pytest.mark.parametrize("theatre", ["renewal of a rental that had ended"], indirect=True, scope="module")
def test_what_is_kept_of_a_player_is_what_one_leaves_that_is_killed(theatre: Theatre) -> None:
    inside = [number for number in theatre.fatal_steps() if theatre.steps[number].is_inside]
    for number in inside[1::5]:
        killed, kept = theatre.left_by_a_kill(number)
        assert killed == kept
