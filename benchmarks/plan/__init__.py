"""What a run will need on machines that are not here: memory, time, traffic. Pure functions of its configuration."""
