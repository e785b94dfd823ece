"""Stands in for Google's Data Manager API: audience members, over gRPC, as its SDK sends them."""
