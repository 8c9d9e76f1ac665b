"""What people may do: each button asks on a page of its own (in a dialog, with JavaScript), then posts the answer."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from control_plane.admin import wording
from control_plane.admin.asking import Question, ask, carry_out, given_reason
from control_plane.admin.forms import SentForm
from control_plane.admin.problems import PageRoute
from control_plane.api.deps import MAX_ID, Id, Now, Sessions
from control_plane.api.schemas import DigestText, Name
from control_plane.domain.errors import NoSafeVersion, StaleGeneration
from control_plane.domain.model_version import Digest, Surface
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId
from control_plane.registry import rollouts, stables, surfaces
from control_plane.registry.surfaces import SurfaceState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Seen = Annotated[int, Query(ge=0, le=MAX_ID)]


@router.get("/surfaces/{surface}/roll_back")
def ask_to_roll_back(request: Request, surface: Name, seen_generation: Seen, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        state = surfaces.get(session, Surface(surface))
        question = _roll_back_question(session, state)
    return ask(request, question, seen_generation, way_back="/")


@router.post("/surfaces/{surface}/roll_back")
def roll_back_surface(surface: Name, form: SentForm, now: Now) -> Response:
    """Takes a candidate with weight off, whatever has moved since. Without one, stable itself goes: only if it is the
    stable that was seen, or a second press would undo what the first one reached."""

    def go_back(session: Session) -> None:
        state = surfaces.get(session, Surface(surface))
        if not state.candidate_bp and form.seen_generation != state.generation:
            raise StaleGeneration(surface, seen=form.seen_generation or 0, current=state.generation)
        stables.roll_back_surface(
            session,
            Surface(surface),
            by=form.operator,
            reason=form.reason,
            now=now,
            seen_generation=form.seen_generation,
        )

    return carry_out(form, go_back, then="/")


@router.get("/rollouts/{rollout_id}/restart")
def ask_to_restart(request: Request, rollout_id: Id, seen_generation: Seen, sessions: Sessions) -> Response:
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
    return ask(request, _restart_question(rollout), seen_generation, way_back=f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/restart")
def restart(rollout_id: Id, form: SentForm, now: Now) -> Response:
    """Under the plan that it has; another one is swapped in by command line or API, which can read it."""

    def begin_anew(session: Session) -> None:
        rollouts.restart(
            session,
            RolloutId(rollout_id),
            plan=None,
            by=form.operator,
            reason=form.reason,
            now=now,
            seen_generation=form.seen_generation,
        )

    return carry_out(form, begin_anew, then=f"/rollouts/{rollout_id}")


@router.get("/rollouts/{rollout_id}/{command}")
def ask_to_command(
    request: Request, rollout_id: Id, command: Command, seen_generation: Seen, sessions: Sessions
) -> Response:
    with sessions.reading() as session:
        rollout = rollouts.get(session, RolloutId(rollout_id))
        state = surfaces.get(session, rollout.surface)
    return ask(request, _command_question(rollout, state, command), seen_generation, way_back=f"/rollouts/{rollout_id}")


@router.post("/rollouts/{rollout_id}/{command}")
def send_command(rollout_id: Id, command: Command, form: SentForm, now: Now) -> Response:
    """Refused where the surface has moved since the page was loaded, but for rolling back: that names its rollout,
    is the same twice as once, and must not wait."""
    is_rollback = command in (Command.ROLL_BACK, Command.ABORT)

    def obey(session: Session) -> None:
        rollouts.apply_command(
            session,
            RolloutId(rollout_id),
            command,
            by=form.operator,
            now=now,
            reason=form.reason,
            seen_generation=None if is_rollback else form.seen_generation,
            groups=form.groups,
        )

    return carry_out(form, obey, then=f"/rollouts/{rollout_id}")


@router.get("/quarantine")
def ask_to_quarantine(request: Request, digest: DigestText) -> Response:
    question = Question(
        title=f"Quarantine {wording.short_digest(digest)}?",
        consequences=(
            "Every version that carries these bytes stops serving, on all surfaces, in one step.",
            "Each of those surfaces goes to a version without them; if one has nowhere to go, nothing is changed.",
            "It stays so until someone releases the digest.",
        ),
        button="Quarantine",
        icon="lock",
        is_danger=True,
        asks_why="Whoever meets the quarantine later reads this.",
    )
    return ask(request, question, None, way_back="/", digest=digest)


@router.post("/quarantine")
def quarantine(form: SentForm, now: Now) -> Response:
    reason, digest = given_reason(form, "whoever meets the quarantine later reads it"), Digest(form.digest)
    return carry_out(
        form,
        lambda session: rollouts.quarantine(session, digest, by=form.operator, reason=reason, now=now),
        then="/",
    )


@router.get("/quarantine/release")
def ask_to_release(request: Request, digest: DigestText) -> Response:
    question = Question(
        title=f"Release {wording.short_digest(digest)} from quarantine?",
        consequences=(
            "Versions that carry these bytes may be rolled out again. Nothing serves them by this alone.",
            "Versions whose rollout was rolled back stay aborted.",
        ),
        button="Release",
        icon="check",
        asks_why="Say what was found out.",
    )
    return ask(request, question, None, way_back="/", digest=digest)


@router.post("/quarantine/release")
def release(form: SentForm, now: Now) -> Response:
    reason, digest = given_reason(form, "say what was found out"), Digest(form.digest)
    return carry_out(
        form,
        lambda session: rollouts.release_quarantine(session, digest, by=form.operator, reason=reason, now=now),
        then="/",
    )


def _roll_back_question(session: Session, state: SurfaceState) -> Question:
    if state.candidate_bp and state.rollout_id is not None:
        return _command_question(rollouts.get(session, state.rollout_id), state, Command.ROLL_BACK)
    name, has_way_back = wording.surface_name(state.surface), stables.has_way_back(session, state)
    if state.rollout_id is None and not has_way_back:
        raise NoSafeVersion(state.surface)
    ends = f"Rollout {state.rollout_id}, whose candidate answers nobody, ends; its version may be tried again."
    stable, proven = (wording.short_version(version or "–") for version in (state.stable, state.last_proven))
    moves = f"All traffic of {name} moves from stable {stable} to last proven {proven} at once."
    stays = f"Stable {stable} stays: it has nothing to go back to."
    already = "Users were taken home already. This takes the stable away, too, that they came home to."
    return Question(
        title=f"Roll {name} back{' to last proven' if has_way_back else ''}?",
        consequences=(
            *([already] if has_way_back and stables.is_home(session, state) else []),
            moves if has_way_back else stays,
            *([] if state.rollout_id is None else [ends]),
            "Other surfaces are not touched.",
        ),
        button="Roll back now",
        icon="back",
        is_danger=True,
    )


def _command_question(rollout: Rollout, state: SurfaceState, command: Command) -> Question:
    name = wording.surface_name(rollout.surface)
    return Question(
        title=f"{wording.COMMAND_WORDS[command]} rollout {rollout.rollout_id} of {name}?",
        consequences=_consequences(rollout, state, command),
        button=f"{wording.COMMAND_WORDS[command]}{' now' if command is Command.ROLL_BACK else ''}",
        icon=wording.COMMAND_ICONS[command],
        is_danger=command in (Command.ROLL_BACK, Command.ABORT),
        asks_why=_asks_why(rollout, command),
    )


def _restart_question(rollout: Rollout) -> Question:
    candidate, share = wording.short_version(rollout.candidate), wording.share(rollout.candidate_bp)
    home = f"The {share} of users on candidate {candidate} go back to stable at once." if rollout.candidate_bp else ""
    return Question(
        title=f"Restart rollout {rollout.rollout_id} of {wording.surface_name(rollout.surface)}?",
        consequences=tuple(
            filter(
                None,
                (
                    home,
                    f"It begins anew in the shadow, under the same plan “{rollout.plan.name}”.",
                    "Evidence and approvals so far count no more; the history keeps them.",
                    "To go on under another plan: surefoot rollout restart --plan.",
                ),
            )
        ),
        button="Restart",
        icon="again",
        asks_why="Evidence is given up: say why. The reason stays in the history.",
    )


def _asks_why(rollout: Rollout, command: Command) -> str:
    if command is Command.SKIP:
        return "You go on without the judge: say why. The reason stays in the history."
    if command is Command.APPROVE and not rollout.is_monitored:
        return "Nothing monitors this step: say what you looked at. The reason stays in the history."
    return ""


def _consequences(rollout: Rollout, state: SurfaceState, command: Command) -> tuple[str, ...]:
    candidate, share = wording.short_version(rollout.candidate), wording.share(rollout.candidate_bp)
    if rollout.phase is Phase.QUEUED and command in (Command.ROLL_BACK, Command.ABORT):
        return (
            f"Rollout {rollout.rollout_id} leaves the queue. What serves stays as it is.",
            f"{candidate} has never been near traffic: it may be rolled out another time.",
        )
    match command:
        case Command.ROLL_BACK | Command.ABORT:
            home = state.last_proven if state.stable == rollout.candidate else state.stable
            moved = f"The {share} of users on candidate {candidate} go" if rollout.candidate_bp else "All traffic stays"
            where = f"{'back to' if rollout.candidate_bp else 'on'} {wording.short_version(home or '–')}"
            return (
                f"{moved} {where} at once.",
                f"The rollout ends and {candidate} is marked aborted. To try again, register a changed version.",
                "Other surfaces are not touched.",
            )
        case Command.ADVANCE:
            return (
                f"The candidate goes on if the latest verdict lets it: next is {_next_words(rollout)}.",
                "The guardrails keep watching and may still roll it back.",
            )
        case Command.SKIP:
            return (
                f"The candidate goes on without what it waits for here – bake time, evidence, approvals: next is "
                f"{_next_words(rollout)}.",
                "The guardrails keep watching and may still roll it back.",
            )
        case Command.HOLD:
            return (
                f"Weights stay as they are (candidate {share}) until someone resumes.",
                "The guardrails keep watching and may still roll it back.",
            )
        case Command.RESUME:
            return ("The rollout goes on in the phase it was in. Its bake time starts again.",)
        case Command.APPROVE:
            return (_approval_words(rollout),)
        case Command.START:
            return ("Runtimes load the candidate; it serves nobody yet.",)
        case Command.EXPIRE:
            return (f"The rollout counts as out of time; weights stay as they are (candidate {share}).",)


def _approval_words(rollout: Rollout) -> str:
    step = rollout.standing_step
    who = f" It takes members of {step.approval_group}." if step is not None and step.approval_group else ""
    judge = " The judge must agree too." if rollout.is_monitored else " Nothing monitors it: people alone decide."
    return f"Your name counts as one approval for leaving this step.{who}{judge}"


def _next_words(rollout: Rollout) -> str:
    if rollout.phase == "warming":
        return "shadow, which answers nobody"
    if rollout.phase == "watching":
        return "done, and the candidate becomes stable"
    return f"{wording.share(rollout.next_share_bp)} of users"
