"""params.yaml: read, merged, validated."""
