"""One script per stage of the pipeline, one JSON schema."""
