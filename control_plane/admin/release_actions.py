"""The releases pages, and rolling a whole release back by one button."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from control_plane.admin import wording
from control_plane.admin.asking import Question, ask
from control_plane.admin.forms import SentForm, remember_operator
from control_plane.admin.problems import PageRoute
from control_plane.admin.releases import going_back, load_list, load_release
from control_plane.admin.rendering import render
from control_plane.api.deps import Id, LiveSince, Now, Sessions
from control_plane.domain.rollout import Rollout
from control_plane.registry import release_rows, rollouts

router = APIRouter(prefix="/releases", route_class=PageRoute, include_in_schema=False)


@router.get("")
def read_releases(request: Request, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        found = load_list(session)
    return render(request, "releases.html", page="/releases", releases=found)


@router.get("/{release_id}")
def read_release(request: Request, release_id: Id, sessions: Sessions, now: Now, live_since: LiveSince) -> Response:
    with sessions.reading() as session:
        view = load_release(session, release_id, now=now, live_since=live_since)
    return render(request, "release.html", page="/releases", view=view)


@router.get("/{release_id}/roll_back")
def ask_to_roll_back(request: Request, release_id: Id, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        going = going_back(session, release_rows.load(session, release_id))
    return ask(request, _question(release_id, going), None, way_back=f"/releases/{release_id}")


@router.post("/{release_id}/roll_back")
def roll_back(request: Request, release_id: Id, form: SentForm, sessions: Sessions, now: Now) -> Response:
    """Whatever has moved since the page was loaded: twice is the same as once. Tells what had to stay."""
    stays = sessions.write(
        lambda session: rollouts.roll_back_release(session, release_id, by=form.operator, reason=form.reason, now=now)
    )
    answer: Response = RedirectResponse(f"/releases/{release_id}", HTTPStatus.SEE_OTHER)
    if stays:
        answer = render(request, "stays.html", page="/releases", release_id=release_id, stays=stays)
    remember_operator(answer, form)
    return answer


def _question(release_id: int, going: tuple[Rollout, ...]) -> Question:
    return Question(
        title=f"Roll release {release_id} back?",
        consequences=(
            *map(_goes, going),
            "All in one step, in this order. A surface that has nowhere to go does not keep the others.",
        )
        if going
        else ("Every surface of it is back already: nothing would change.",),
        button="Roll all back now",
        icon="back",
        is_danger=True,
    )


def _goes(rollout: Rollout) -> str:
    name, candidate = wording.surface_name(rollout.surface), wording.short_version(rollout.candidate)
    if not rollout.candidate_bp:
        return f"{name}: rollout {rollout.rollout_id} ends; nobody is on candidate {candidate}."
    return f"{name}: the {wording.share(rollout.candidate_bp)} of users on {candidate} go back at once."
