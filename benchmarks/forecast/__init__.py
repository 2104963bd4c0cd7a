"""What a run will need on machines that are not at hand: memory, step time, hours. All modelled."""
