"""The sub-commands of ``radio`` that Segment Anything with RADIO inside brings along."""
