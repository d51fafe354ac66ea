"""Where Zarr arrays lie: folders, zip files, buckets, the web."""
