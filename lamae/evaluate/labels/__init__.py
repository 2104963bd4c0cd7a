"""Labels of a shard set from code tables, headers and CSV files."""
