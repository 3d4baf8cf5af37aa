"""Maps of many images as a Parquet data set: written part by part, read by any table program."""
