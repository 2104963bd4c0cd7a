"""The processes of a run: their group, where each runs, what they tell each other, what becomes of a hung one."""
