"""Places people ask for whose names are no zone's in the IANA database, by zone. Cities that are need not be here."""

from __future__ import annotations

from collections.abc import Mapping

PLACES: Mapping[str, str] = {
    "Asia/Shanghai": "beijing china shenzhen guangzhou hangzhou nanjing wuhan tianjin 中国 北京 上海 广州 深圳 杭州 南京 "
    "成都 武汉 西安 天津 苏州",
    "Asia/Hong_Kong": "香港",
    "Asia/Macau": "澳门",
    "Asia/Taipei": "台北 台湾 taiwan",
    "Asia/Tokyo": "osaka kyoto 东京 大阪 京都 日本",
    "Asia/Seoul": "korea south_korea busan 首尔 韩国",
    "Asia/Singapore": "新加坡",
    "Asia/Bangkok": "thailand 曼谷 泰国",
    "Asia/Kolkata": "india mumbai delhi new_delhi bangalore bengaluru chennai hyderabad 印度 孟买 新德里 德里",
    "Asia/Dubai": "迪拜",
    "Asia/Jakarta": "雅加达",
    "Asia/Kuala_Lumpur": "malaysia 吉隆坡 马来西亚",
    "Asia/Manila": "philippines 马尼拉 菲律宾",
    "Asia/Ho_Chi_Minh": "hanoi vietnam saigon 河内 越南 胡志明市",
    "Europe/Istanbul": "istanbul ankara 伊斯坦布尔",
    "Europe/London": "uk england britain scotland edinburgh manchester 伦敦 英国",
    "Europe/Paris": "france lyon 巴黎 法国",
    "Europe/Berlin": "germany munich hamburg frankfurt cologne 柏林 慕尼黑 德国",
    "Europe/Madrid": "spain barcelona 马德里 西班牙 巴塞罗那",
    "Europe/Rome": "italy milan 罗马 米兰 意大利",
    "Europe/Zurich": "switzerland geneva bern 苏黎世 日内瓦 瑞士",
    "Europe/Vienna": "austria 维也纳 奥地利",
    "Europe/Amsterdam": "netherlands 阿姆斯特丹 荷兰",
    "Europe/Athens": "greece 雅典 希腊",
    "Europe/Moscow": "st_petersburg 莫斯科",
    "Africa/Cairo": "开罗 埃及",
    "Africa/Johannesburg": "south_africa cape_town 约翰内斯堡 南非",
    "Africa/Nairobi": "kenya",
    "Australia/Sydney": "悉尼",
    "Australia/Melbourne": "墨尔本",
    "Pacific/Auckland": "new_zealand wellington 奥克兰 新西兰",
    "America/New_York": "new_york_city nyc boston washington washington_dc miami atlanta philadelphia 纽约 波士顿 华盛顿",
    "America/Chicago": "houston dallas austin 芝加哥",
    "America/Los_Angeles": "la san_francisco seattle san_diego las_vegas 洛杉矶 旧金山 西雅图",
    "America/Toronto": "montreal ottawa 多伦多",
    "America/Vancouver": "温哥华",
    "America/Sao_Paulo": "rio rio_de_janeiro 圣保罗 里约热内卢",
    "America/Argentina/Buenos_Aires": "argentina 布宜诺斯艾利斯 阿根廷",
    "America/Mexico_City": "墨西哥城",
}  # fmt: skip
