"""The `surefoot` command."""

import typer

from control_plane.commands import (
    db,
    freezes,
    history,
    processes,
    registry,
    rehearsal,
    releases,
    rollouts,
    verdicts,
    webhooks,
)

app = typer.Typer(
    name="surefoot",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rollout and safety control plane for unified ads engagement models.",
)

app.command("demo")(processes.demo)
app.command("up")(processes.up)
app.command("serve")(processes.serve)
app.command("scheduler")(processes.scheduler)
app.command("aggregate")(processes.aggregate)
app.command("runtime", context_settings=processes.PASS_THROUGH)(processes.runtime)
app.command("train", context_settings=processes.PASS_THROUGH)(processes.train)
app.command("recalibrate", context_settings=processes.PASS_THROUGH)(processes.recalibrate)
app.command("export", context_settings=processes.PASS_THROUGH)(processes.export)
app.command("rehearse")(rehearsal.rehearse_plan)
app.command("register")(registry.register)
app.add_typer(registry.surface_app, name="surface")
app.add_typer(registry.version_app, name="version")
app.add_typer(rollouts.app, name="rollout")
app.add_typer(releases.app, name="release")
app.add_typer(verdicts.app, name="verdict")
app.add_typer(registry.quarantine_app, name="quarantine")
app.add_typer(freezes.app, name="freeze")
app.command("unfreeze")(freezes.unfreeze)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(history.app, name="history")
app.add_typer(db.app, name="db")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
