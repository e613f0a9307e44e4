"""Followers read the journal at their own pace, each with a cursor; `tables` writes Parquet."""
