"""Images in, batches out: photo folders, crops and resizes, the procedural toy world.

- `images`: decode one file of any common kind into 8-bit RGB, and the `ImageSource` protocol.
- `folder`: folders of photos, with or without class folders, and the account of skipped files.
- `transforms`: random crops that all teachers share, RADIO's evaluation resize.
- `toyworld`: deterministic procedural scenes and their export to the field's formats.
"""
