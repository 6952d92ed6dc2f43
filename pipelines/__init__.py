"""The embedding system: catalogs to shards to maps. See README.md."""
