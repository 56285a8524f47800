"""What a run leaves behind: `result.json`, tables as CSV and Parquet, and the report."""
