"""Images in, batches out: folders, shards, tables, crops and resizes, the procedural toy world.

- `sources`: training data by name, several of them mixed; what tells two sets of data apart.
- `images`: decode one file of any common kind into 8-bit RGB, and the `ImageSource` protocol.
- `folder`, `folder_index`: folders of photos, the account of skipped files, the kept list.
- `shards`, `shard_index`, `downloads`: WebDataset shards on disk or behind http(s).
- `tables`: Hugging Face datasets and parquet files.
- `mixture`: several sources as one.
- `order`: which image comes when, as a pure function of seed and position.
- `storage`: where indexes and fetched shards are kept.
- `transforms`: random crops that all teachers share, RADIO's evaluation resize.
- `toyworld`: deterministic procedural scenes and their export to the field's formats.
"""
