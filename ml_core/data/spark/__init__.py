"""features.sql on Spark: the same DuckDB text, translated, and the same rows.

`translate` turns the text into Spark SQL or refuses what it does not know by name; it needs neither Spark nor Java.
`engine` hands the facts over as Parquet, runs the translation and hands the rows back. `pyspark` is imported in
`session` alone, and only when rows are built.
"""
