"""Commands on manifests: merge, split, check, stats and shards."""
