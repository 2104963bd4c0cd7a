"""What every package stands on: errors, files, processes, configuration. Imports the standard library and numpy."""
