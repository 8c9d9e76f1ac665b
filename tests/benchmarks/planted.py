"""Ways to break a registry: by name, the invariant that must be reported, words of the report, and what is done."""

GREW = "command = 'advance' AND before LIKE '%\"candidate_bp\":500%' AND after LIKE '%\"candidate_bp\":2500%'"
PLANTED = {
    "a change is missing": (
        "1",
        "there is a gap",
        [
            "DELETE FROM history WHERE surface = 'search' AND seq = 5",
            "DELETE FROM split WHERE surface = 'search' AND generation = 5",
        ],
    ),
    "a split is missing": (
        "1",
        "generation 5 has no split",
        ["DELETE FROM split WHERE surface = 'search' AND generation = 5"],
    ),
    "a split says otherwise": (
        "1",
        "is not what its change made",
        ["UPDATE split SET candidate_bp = 7 WHERE generation = 6"],
    ),
    "a split has no change": (
        "1",
        "has no change",
        [
            "INSERT INTO split SELECT surface, 999, at, stable, candidate, candidate_bp, shadow, shadow_sample_bp, "
            "salt FROM split WHERE generation = 5 AND surface = 'search'"
        ],
    ),
    "a surface moved by itself": ("1", "is not what change", ["UPDATE surface SET shadow_sample_bp = 1"]),
    "a generation was counted twice": ("1", "its history at", ["UPDATE surface SET generation = generation + 1"]),
    "a split was never told": ("1", "is told 0 times", ["DELETE FROM outbox WHERE event LIKE '%home_feed/4\"%'"]),
    "a split was told twice": (
        "1",
        "is told 2 times",
        [
            "INSERT INTO outbox (event, ordering_key) SELECT event, ordering_key FROM outbox "
            'WHERE event LIKE \'%"id":"home_feed/4"%\''
        ],
    ),
    "weights do not sum to all": (
        "1",
        "weights sum to",
        ["UPDATE outbox SET event = replace(event, ':10000', ':9999')"],
    ),
    "a rollout moved by itself": (
        "1",
        "its history left it ramping",
        ["UPDATE rollout SET phase = 'watching' WHERE phase = 'ramping'"],
    ),
    "a surface lost its rollout": ("1", "the surface carries None", ["UPDATE surface SET rollout_id = NULL"]),
    "an aborted version serves": (
        "2",
        "which was aborted",
        ["UPDATE model_version SET aborted_at = registered_at WHERE version_id IN (SELECT stable FROM surface)"],
    ),
    "a quarantined digest serves": (
        "2",
        "of which a part is quarantined",
        [
            "INSERT INTO quarantine (digest, at, by, reason) SELECT trunk, registered_at, 'x', 'x' FROM model_version "
            "WHERE version_id IN (SELECT candidate FROM surface)"
        ],
    ),
    "what was taken back serves again": (
        "2",
        "which was taken back",
        [
            "UPDATE history SET after = replace(after, (SELECT candidate FROM surface WHERE surface = 'search'), "
            "(SELECT candidate FROM rollout WHERE phase = 'rolled_back')) WHERE surface = 'search'"
        ],
    ),
    "a roll back left the candidate there": (
        "2",
        "still serves a candidate",
        ["UPDATE history SET after = before WHERE command = 'roll_back'"],
    ),
    "weight grew without a verdict": (
        "3",
        "without a passing verdict",
        [f"UPDATE history SET verdict_id = NULL WHERE {GREW}"],
    ),
    "weight grew on a verdict to hold": ("3", "without a passing verdict", ["UPDATE verdict SET outcome = 'hold'"]),
    "weight grew on a verdict of another generation": (
        "3",
        "without a passing verdict",
        ["UPDATE verdict SET generation = generation - 1"],
    ),
    "weight grew on another rollout's verdict": (
        "3",
        "without a passing verdict",
        ["UPDATE verdict SET rollout_id = 3 - rollout_id WHERE rollout_id < 3"],
    ),
    "a person's skip has no reason": (
        "3",
        "that no person gives a reason for",
        [f"UPDATE history SET command = 'skip', by = 'bob', reason = ' ', verdict_id = NULL WHERE {GREW}"],
    ),
    "weight grew by a hold": ("3", "gained weight by hold", [f"UPDATE history SET command = 'hold' WHERE {GREW}"]),
    "a deposed scheduler changed something": (
        "5",
        "when the lease was at",
        ["UPDATE crash_run_wrote SET believed_epoch = 0 WHERE seq = 6"],
    ),
    "a deposed scheduler stored a verdict": (
        "5",
        "verdict 3 was written under epoch",
        ["UPDATE crash_run_wrote SET believed_epoch = 0 WHERE verdict_id = 3"],
    ),
    "an old epoch came after a new one": (
        "5",
        "comes after one under",
        ["UPDATE crash_run_wrote SET epoch = 2, believed_epoch = 2 WHERE seq = 5", "UPDATE lease SET epoch = 2"],
    ),
    "two schedulers shared an epoch": (
        "5",
        "2 schedulers wrote",
        ["UPDATE crash_run_wrote SET holder = 'another' WHERE seq = 5"],
    ),
    "an epoch that never was": ("5", "the lease is at", ["UPDATE lease SET epoch = 0"]),
    "nobody wrote a scheduler's change": ("5", "none wrote it", ["DELETE FROM crash_run_wrote WHERE seq = 5"]),
    "a candidate has no lease": ("6", "weight without a lease", ["UPDATE surface SET unwatched_seconds = NULL"]),
    "a lease was renewed without a check": (
        "6",
        "when no check",
        ["UPDATE surface SET lease_renewed_at = '2027-01-01 00:00:00.000000'"],
    ),
    "a verdict was altered": (
        "9",
        "replays differently",
        ["UPDATE verdict SET verdict = replace(verdict, 'safe', 'sage') WHERE verdict_id = 2"],
    ),
    "a change was altered": ("9", "change 4", ["UPDATE history SET reason = 'another' WHERE seq = 4"]),
    "a command led where none leads": (
        "end state",
        "leads from",
        [f"UPDATE history SET command = 'resume' WHERE {GREW}"],
    ),
    "a step was left out": (
        "end state",
        "leads from step",
        ["UPDATE history SET after = replace(after, '\"step\":1', '\"step\":2')"],
    ),
    "a weight is not the plan's": (
        "end state",
        "basis points, not",
        ["UPDATE rollout SET plan = replace(plan, '500bp', '501bp')"],
    ),
    "stable came from nowhere": (
        "end state",
        "stable",
        ['UPDATE history SET after = replace(after, \'"stable":"\', \'"stable":"0\') WHERE seq = 6'],
    ),
}
