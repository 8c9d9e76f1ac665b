"""What the database itself refuses: to alter or take out what was written down. Used by revision 0002.

The histories, the verdicts and the digests of their inputs stay for ever. The contents of inputs may be emptied, in a
transaction that holds an open retention pass, and filled again.
"""

from sqlalchemy import Connection, text

SAYS = "is append-only: rows are neither altered nor taken out"
OPEN_PASS = "EXISTS (SELECT 1 FROM retention_pass WHERE finished_at IS NULL)"
REFILLS = "OLD.pruned_at IS NOT NULL AND NEW.pruned_at IS NULL"
UPDATES_INPUTS = f"NOT (NEW.digest = OLD.digest AND ({OPEN_PASS} OR ({REFILLS})))"
RULES = {  # trigger: table, event, when it refuses
    "history_keeps_its_rows": ("history", "DELETE", ""),
    "history_is_not_rewritten": ("history", "UPDATE", ""),
    "version_history_keeps_its_rows": ("version_history", "DELETE", ""),
    "version_history_is_not_rewritten": ("version_history", "UPDATE", ""),
    "verdict_keeps_its_rows": ("verdict", "DELETE", ""),
    "verdict_is_not_rewritten": ("verdict", "UPDATE", ""),
    "verdict_inputs_keep_their_rows": ("verdict_inputs", "DELETE", ""),
    "verdict_inputs_are_not_rewritten": ("verdict_inputs", "UPDATE", UPDATES_INPUTS),
}


def protect(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        for statement in _sqlite():
            connection.execute(text(statement))
        return
    for statement in _postgresql():
        connection.execute(text(statement))


def unprotect(connection: Connection) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    for trigger, (table, _, _) in RULES.items():
        connection.execute(text(f"DROP TRIGGER {trigger}" if is_sqlite else f"DROP TRIGGER {trigger} ON {table}"))
    if is_sqlite:
        return
    for table in _tables():
        connection.execute(text(f"DROP TRIGGER {table}_is_not_truncated ON {table}"))
    connection.execute(text("DROP FUNCTION refuse_rewriting(), inputs_may_be_pruned()"))


def _sqlite() -> list[str]:
    return [
        f"CREATE TRIGGER {trigger} BEFORE {event} ON {table} {f'WHEN {when}' if when else ''}"
        f" BEGIN SELECT RAISE(ABORT, '{table} {SAYS}'); END"
        for trigger, (table, event, when) in RULES.items()
    ]


def _postgresql() -> list[str]:
    """A trigger's own condition may hold no subquery there, so inputs have a function of their own."""
    refusal = f"RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' {SAYS}', ERRCODE = 'integrity_constraint_violation';"
    functions = [
        f"CREATE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refusal} END $$",
        "CREATE FUNCTION inputs_may_be_pruned() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF {UPDATES_INPUTS} THEN {refusal} END IF; RETURN NEW; END $$",
    ]
    by_row = [
        f"CREATE TRIGGER {trigger} BEFORE {event} ON {table} FOR EACH ROW"
        f" EXECUTE FUNCTION {'inputs_may_be_pruned' if when else 'refuse_rewriting'}()"
        for trigger, (table, event, when) in RULES.items()
    ]
    whole = [
        f"CREATE TRIGGER {table}_is_not_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_rewriting()"
        for table in _tables()
    ]
    return functions + by_row + whole


def _tables() -> list[str]:
    return list(dict.fromkeys(table for table, _, _ in RULES.values()))
