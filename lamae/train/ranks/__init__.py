"""The processes of a run: their group, where each runs, what they agree on, what becomes of a hung one."""
