"""The chapters of the demo, in order. Each says what happens and why, does it, and leaves checks and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from control_plane.demo import fetch, services, stage_real
from control_plane.demo.checkpoints import convert_open_bandit, export, register_all, train_beside
from control_plane.demo.checks import Checks
from control_plane.demo.click_model import ClickModel, the_truth
from control_plane.demo.contexts import Contexts, read_contexts, read_vocabularies
from control_plane.demo.control_client import ControlClient
from control_plane.demo.narrator import Narrator
from control_plane.demo.outcomes import Outcomes
from control_plane.demo.processes import Processes
from control_plane.demo.scoring_client import ScoringClient
from control_plane.demo.services import Addresses
from control_plane.demo.simulated_data import write_simulated
from control_plane.demo.stage_simulated import Simulation
from control_plane.demo.world import EventTime, World

PLANS = Path(__file__).parent / "plans"
SURFACES = ("home_feed", "search", "related_pins")
TRAIN_PER_SURFACE = 80_000  # simulated impressions, enough to learn the stated model to within its gates
REAL_TRAINING = (  # one pass over the first two days: the other five of the replay are new to both checkpoints
    *("--before-ms", str(stage_real.BEGINS_MS + 2 * 86_400_000)),
    *("--epochs", "1"),
)
CALIBRATOR_FAULT = "search.calibrator=1.6"
TRUNK_FAULT = "trunk=scramble"

Wait = Callable[[], None]


@dataclass(kw_only=True)
class Story:
    """What the chapters share and add to."""

    narrator: Narrator
    processes: Processes
    folder: Path
    seed: int
    checks: Checks
    addresses: Addresses
    figures: dict[str, object] = field(default_factory=dict)
    contexts_of: Mapping[str, Contexts] = field(default_factory=dict)

    def tell(self) -> None:
        self._fetch()
        self._train_on_real()
        trained = self._train_on_simulated()
        world = self._start()
        self._replay_real(world)
        self._simulate(world, trained)

    def _fetch(self) -> None:
        why = f"60 000 real ad impressions with 287 clicks: {fetch.ABOUT}."
        with self.narrator.chapter("fetch", "1  Real logged data", why):
            wheel = fetch.open_bandit_wheel(fetch.default_cache_dir())
            self.narrator.say(f"checked by sha256 and kept at {wheel}")
            convert_open_bandit(self.processes, wheel, self._real)
            self.contexts_of = read_contexts(self._real)

    def _train_on_real(self) -> None:
        why = (
            "Three campaigns stand for three surfaces, positions for view types. One joint training gives one "
            "checkpoint; each surface serves its own pruned export with its own calibrator. A second seed makes the "
            "checkpoint that will run in the shadow of the first. Both train on the first two days of the week only: "
            "five of the seven days replayed below are new to them."
        )
        with self.narrator.chapter("train", "2  Two small unified models", why):
            names = ("first", "second")
            with self.narrator.progress("training and exporting", len(names)) as bar:
                waits = [
                    self._train(f"real-{name}", self._real, self.seed + n, *REAL_TRAINING)
                    for n, name in enumerate(names)
                ]
                for name, wait in zip(names, waits, strict=True):
                    wait()
                    export(self.processes, self._checkpoint(f"real-{name}"), self._exports(f"real-{name}"))
                    bar.advance()

    def _train_on_simulated(self) -> Wait:
        """Starts the trainings of the second half; they run while the real log is replayed."""
        rng = np.random.default_rng([self.seed, 1])
        data = self.folder / "simulated-data"
        rate = write_simulated(
            self.contexts_of,
            self._truth(),
            features_from=self._real,
            data_dir=data,
            per_surface=TRAIN_PER_SURFACE,
            rng=rng,
        )
        self.figures["simulated_training_click_rate"] = round(rate, 4)
        names = ("stable", "sound")
        waits = [self._train(f"simulated-{name}", data, self.seed + 10 + n) for n, name in enumerate(names)]

        def wait() -> None:
            for name, trained in zip(names, waits, strict=True):
                trained()
                export(self.processes, self._checkpoint(f"simulated-{name}"), self._exports(f"simulated-{name}"))

        return wait

    def _start(self) -> World:
        why = (
            "Registry (SQLite), API, scheduler and admin page are one process, the scoring runtime another, both on "
            "loopback. They live in event time: a clock file, which the demo sets forward."
        )
        with self.narrator.chapter("start", "3  The control plane and a runtime", why):
            clock_file = self.folder / "clock"
            time = EventTime(path=clock_file, now_ms=0)
            time.set_to(stage_real.BEGINS_MS)
            services.start(self.processes, self.addresses, self.folder, clock_file)
            control = ControlClient(self.addresses.control_plane)
            for surface, contexts in self.contexts_of.items():
                control.post("/v1/surfaces", {"surface": surface, "view_types": list(contexts.view_types)})
            versions = register_all(control, self._exports("real-first"), SURFACES)
            for surface, version in versions.items():
                control.adopt(surface, version, "first checkpoint of the demo, trained on real clicks")
            world = World(
                control=control,
                runtime=ScoringClient(self.addresses.runtime),
                time=time,
                outcomes=Outcomes(rng=np.random.default_rng([self.seed, 2])),
            )
            world.follow()
            self.narrator.say(f"admin page: {self.addresses.control_plane}/   (open it now and watch)")
            return world

    def _replay_real(self, world: World) -> None:
        why = (
            "Every logged impression goes through router, scorer, shadow and event log at its own time of the week, "
            "and its click follows when it happened. 287 clicks are too few to show anything safe, so nothing may "
            "advance; what the judge can say, it says with intervals. Meanwhile the models of the second half train."
        )
        with self.narrator.chapter("real", "4  Real outcomes", why):
            candidates = register_all(world.control, self._exports("real-second"), SURFACES)
            figures = stage_real.replay(
                world, self.narrator, self.checks, self.contexts_of, candidates, (PLANS / "real.yaml").read_text()
            )
            self.figures["real"] = figures

    def _simulate(self, world: World, trained: Wait) -> None:
        plan_yaml = (PLANS / "simulated.yaml").read_text()
        simulation = Simulation(
            world=world,
            narrator=self.narrator,
            checks=self.checks,
            contexts_of=self.contexts_of,
            truth=self._truth(),
            plan_yaml=plan_yaml,
            rng=np.random.default_rng([self.seed, 3]),
        )
        before = world.impressions
        next_trained = self._announce_truth(world, simulation, trained)
        self._sound(world, simulation)
        next_trained()
        self._broken_calibrator(world, simulation)
        self._broken_trunk(world, simulation)
        simulation.check_history()
        self.figures["simulated_impressions"] = world.impressions - before
        self.figures["real_impressions"] = before

    def _announce_truth(self, world: World, simulation: Simulation, trained: Wait) -> Wait:
        why = (
            "From here on clicks are SIMULATED: real contexts resampled to many users, clicks drawn from a stated "
            "model, so that what ought to happen to each candidate is known beforehand."
        )
        with self.narrator.chapter("simulated_start", "5  Known truth (SIMULATED clicks)", why):
            self.narrator.panel(simulation.truth.in_words(), "the truth, SIMULATED")
            self.narrator.panel(simulation.plan_yaml.strip(), "the plan, given to the real judge")
            with self.narrator.progress("waiting for the models trained on SIMULATED clicks", None):
                trained()
            next_trained = self._train_next()
            for surface, version in register_all(world.control, self._exports("simulated-stable"), SURFACES).items():
                world.control.adopt(surface, version, "SIMULATED clicks from here on: a stable trained on them")
            world.follow()
        return next_trained

    def _train_next(self) -> Wait:
        """One more checkpoint, to be broken on purpose; it trains while the sound one travels."""
        wait_trained = self._train("simulated-next", self.folder / "simulated-data", self.seed + 12)

        def wait() -> None:
            wait_trained()
            checkpoint = self._checkpoint("simulated-next")
            export(self.processes, checkpoint, self._exports("broken-calibrator"), faults=[CALIBRATOR_FAULT])
            export(self.processes, checkpoint, self._exports("broken-trunk"), faults=[TRUNK_FAULT])

        return wait

    def _sound(self, world: World, simulation: Simulation) -> None:
        why = (
            "SIMULATED: a second training of the same model is as good as stable. It walks shadow, 1, 5, 25, 50, "
            "100 % on home_feed and search; related_pins may start once both held 25 % for 24 h."
        )
        with self.narrator.chapter("sound", "5a  A sound candidate", why):
            candidates = register_all(world.control, self._exports("simulated-sound"), SURFACES)
            self.figures["sound"] = simulation.sound(candidates)

    def _broken_calibrator(self, world: World, simulation: Simulation) -> None:
        why = (
            f"SIMULATED: the next checkpoint, but on search its calibrator is off ({CALIBRATOR_FAULT}). Calibration "
            "is an artifact of its own, so search alone must lose this release."
        )
        with self.narrator.chapter("broken_calibrator", "5b  A calibrator broken on search only", why):
            candidates = register_all(world.control, self._exports("broken-calibrator"), SURFACES)
            self.figures["broken_calibrator"] = simulation.broken_calibrator(candidates)

    def _broken_trunk(self, world: World, simulation: Simulation) -> None:
        why = (
            f"SIMULATED: a checkpoint whose trunk is broken ({TRUNK_FAULT}), released on all three surfaces. All "
            "share that trunk, so the first surface that notices takes it off every other one, in one transaction."
        )
        with self.narrator.chapter("broken_trunk", "5c  A trunk broken everywhere", why):
            candidates = register_all(world.control, self._exports("broken-trunk"), SURFACES)
            self.figures["broken_trunk"] = simulation.broken_trunk(candidates)

    def _truth(self) -> ClickModel:
        return the_truth(read_vocabularies(self._real))

    def _train(self, name: str, data: Path, seed: int, *options: str) -> Wait:
        return train_beside(self.processes, name, data, self._checkpoint(name), "--seed", str(seed), *options)

    @property
    def _real(self) -> Path:
        return self.folder / "real-data"

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

    def _exports(self, name: str) -> Path:
        return self.folder / "artifacts" / name
