"""`surefoot verdict …`: why the judge said what it said."""

from typing import Annotated

import httpx
import typer

from control_plane.commands.client import TIMEOUT_SECONDS, call, fail, out, url
from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.verdict import Verdict
from control_plane.guardrails.explain import explain as explain_verdict
from control_plane.guardrails.replay import replay as replay_inputs

app = typer.Typer(no_args_is_help=True, help="Explain and replay verdicts.")

VerdictArgument = Annotated[int, typer.Argument(metavar="VERDICT", help="The verdict's number.")]


@app.command()
def explain(verdict_id: VerdictArgument) -> None:
    """Say in words what was compared, what came out and what is missing."""
    stored = call("GET", f"/v1/verdicts/{verdict_id}")
    rollout = call("GET", f"/v1/rollouts/{stored['rollout_id']}")
    who = f"candidate {rollout['candidate']} against stable {rollout['stable']}"
    heading = f"verdict {verdict_id} on {rollout['surface']}, rollout {rollout['rollout_id']}: {who}"
    told = explain_verdict(Verdict.from_json(stored["verdict_json"]))
    out.print(f"{heading}\n{told}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def replay(verdict_id: VerdictArgument) -> None:
    """Judge the stored evidence again; exit 1 unless the verdict comes out the same to the bit."""
    stored: str = call("GET", f"/v1/verdicts/{verdict_id}")["verdict_json"]
    response = httpx.get(f"{url()}/v1/verdicts/{verdict_id}/inputs", timeout=TIMEOUT_SECONDS)
    if response.status_code == httpx.codes.GONE:
        fail(response.json()["detail"])
    if response.is_error:
        fail(f"the inputs of verdict {verdict_id} are not to be had: {response.status_code}")
    try:
        again = replay_inputs(response.content)
    except ControlPlaneError as error:
        fail(f"the inputs of verdict {verdict_id} cannot be judged again: {error}")
    if again.to_json() != stored:
        fail(f"verdict {verdict_id} came out differently; was it judged by another version of Surefoot?")
    out.print(f"verdict {verdict_id} replays bit for bit: {again.outcome}, {again.reason}", markup=False)
