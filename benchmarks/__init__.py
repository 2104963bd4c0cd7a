"""One script per arrow of the system, one JSON schema."""
