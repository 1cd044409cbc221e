"""Download of the challenge's data sets: catalogue, transfer, verification, unpacking."""
