"""A stand-in for Google Ads API v26: Customer Match uploads and the few searches they need."""
