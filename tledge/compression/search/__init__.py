"""`optimize --goal`: try candidates from cheap to dear and choose."""
