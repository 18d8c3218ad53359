"""Files that the API hands to browsers; `vendor` holds those of others, as `vendor.json` lists."""
