"""Images in, batches out: folders, shards, tables, crops and resizes, the procedural toy world.

- `sources`: what a source of images is, sources by name, several of them mixed.
- `images`: decode one file of any common kind into 8-bit RGB.
- `folder`: folders of photos, the account of skipped files, the kept list.
- `shards`: WebDataset shards on disk or behind http(s).
- `tables`: Hugging Face datasets and parquet files.
- `storage`: the cache folder: indexes and fetched files.
- `order`: which image comes when, as a pure function of seed and position.
- `transforms`: random crops that all teachers share, RADIO's evaluation resize.
- `toyworld`: deterministic procedural scenes and their export to the field's formats.
"""
