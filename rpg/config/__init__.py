"""Read, merge and validate params.yaml."""
