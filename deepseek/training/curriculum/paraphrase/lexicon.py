"""A larger vocabulary for what must be copied: everyday words and names in two languages, words that only look like some, any Han.

A model that copies only the words it was shown misspells all others, so half of what is asked for here was never a word.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

from deepseek.training.curriculum import words
from deepseek.training.curriculum.sample import Language

EN_WORDS = words.split(
    "ability about above abstract academy accident account acid action actor address adult adventure advice agency airline airport album alcohol algorithm "
    "almond alphabet aluminium amazing ambulance amount anchor angle animal ankle answer antenna antique apartment appetite approach apricot april aquarium architect arena argument arrow artist asphalt "
    "asteroid athlete atmosphere atom attic auction audience august aunt author autumn avenue avocado award axis baby bachelor background bacon bacteria badge baggage bakery balance balcony ballet balloon banana "
    "bandage banking baptism barber bargain barley barrel baseball basement basil basket basketball bathroom beach bean bear beard beauty bedroom beer beetle behavior bell belt bench berry better bible bicycle big billion "
    "biscuit bishop bitter blanket blender blizzard blood blossom blouse blueberry board boat body bomb bone bonus bookstore border bottle bottom bowl bowling bracelet brain branch brand brass bravery breakfast breath breeze brick bright "
    "broccoli brother brown brush bucket buffet building bullet bundle burger burn business butcher butter button buyer cabbage cabin cabinet cable cactus cafe calcium calendar calm camel camp campus canal cancer candidate candle candy canoe "
    "canyon capital captain caravan carbon career cargo carnival carpenter carrot cartoon cash casino cat category cathedral cattle cause caution cave ceiling celebrity cello cement center century ceramic cereal ceremony chain chair challenge "
    "champion change channel chapel chapter character charcoal charity chart cheap checklist cheek cherry chest chicken chief child chimney chin choice choir cholesterol christmas church cinema cinnamon circle circuit citizen city clarinet class clay "
    "clinic clock closet cloud clover club coach coal coast cobra coconut code coffee coin college color column comedy comic community company compass competition composer concert concrete condition conference confidence connection "
    "construction consumer contact continent control conversation cookie corner corn cosmos cost cotton couch council country couple courage course court cousin cover cow crab cradle crane crayon cream creature credit cricket crime crisis crocodile "
    "crop cross crowd crown cruise crystal cucumber culture cup curry curtain customer cycle cyclone dairy daisy damage danger data date daughter dawn day deal debate debt december decision deer defense degree delivery demand democracy denim dentist "
    "department design desk dessert detail detective device dialogue diary dictionary diesel diet digital dinner dinosaur diploma direction dirt disaster discount discovery disease dish distance diver division doctor document dog doll dollar domain "
    "donkey door double dough dragon drama drawer dream dress drink driver drought drum duck duty dwarf earring earth east easter economy edge edition editor education effect egg eight elbow election electric electron element elevator email embassy emerald "
    "emotion employee empire energy engine english enough enterprise entrance envelope environment episode equation equipment error escape essay estate europe evening event evidence evolution example exchange exercise exhibition exit experiment expert export "
    "express eye fabric face factory failure fairy faith falcon family fan fantasy farm fashion father favourite feather february federal female fence fever fiber fiction field fig film filter finance finger fire firefly fireplace fish fitness flag flame "
    "flavor fleet flight flood floor flour flu fluid flute foam fog folder food foot forecast forehead formula fortress fossil fountain fox fraction frame freedom freezer french friday fridge friend frog frost fruit fuel function funeral fungus funny fur "
    "furniture future gallery game gap garage garbage gas gasoline gear gene general genius genre gentle ghost giant ginger giraffe girl glacier glass globe glove glue goal goat god golf goose gorilla gospel government grain grandfather grandmother granite grape "
    "graph grass gravity gravy green greeting grill grocery ground group guard guest guide guitarist gun gym habit hair half hall hamster hand handbag happiness harbor hardware harvest hat hawk hazard head headache headline headphones health heart heat heaven "
    "hedge height helicopter hello helmet herb heritage hero highway hill hip history hobby hockey hole holes home honey honor hope horizon horn horror horse hospital host hostel hotel hour household housing human humidity humor hunger hunter hurricane husband hybrid "
    "ice icon idea identity illness image immigrant income index industry infection inflation information injury ink insect inspector instrument interest internet interview invention investment iron island ivory jacket jaguar jail jam january jar jazz jeans jelly jet jewel "
    "job joke journal journey joy judge juice july jump june jungle junior jury justice kangaroo kayak kettle key kidney kilogram kind king kingdom kiss kite kitten kiwi knee knife knight knot label labor lace lady lake lamb land landscape language lantern laptop laser latte "
    "laundry lava law lawn layer leader leaf league leather lecture left leg legend lemon lentil leopard lesson letter lettuce level lever liberty license lid life light lightning lily lime linen lion liquid list literature liver lizard loan lobster lock logic logo london "
    "lottery love luck luggage lumber lunch lung luxury machine magazine magic magnet mail majority makeup male mall mammal manager mango manual map maple marble march margin marina marker marriage mask mason master match material mathematics matrix mattress mayor meadow meal "
    "meaning measure meat mechanic medal medicine medium meeting melody melon member memory menu merchant mercury message metal meteor meter method metro microphone midnight military milk million mind mine mineral minister minute miracle mirror missile mission mobile modem moment "
    "monarch monday money monitor monkey monster month monument morning mosaic mosque mosquito mother motion motor motorcycle mouse mouth movement movie mud muffin mule muscle mushroom music mustard mystery myth nail name napkin nation nature navy neck necklace needle neighbor nephew "
    "nerve nest neutral newspaper night nitrogen noise noon north nose notebook notice november nurse nut nutrition nylon oasis oatmeal object observatory october octopus office officer oil olive omelette online opera opinion orange orbit orchestra orchid order organ origin ostrich otter "
    "outfit oven owl owner oxygen oyster package page pain palace palm pan pancake panda panel panic pants papaya parade paradise parent park parking parliament parrot parsley part partner party passenger password pasta pastry patent path patient pattern pavement payment peace peach peacock "
    "peak peanut pear pearl pedal pen pencil people perfume period permission person petrol pharmacy phone photo phrase physician pianist picnic picture pie pig pigeon pillow pilot pineapple pink pioneer pipe pirate pistol pizza plan planet plank planning plate platform platinum player "
    "playground pleasure plot plumber plum pocket poet point poison polar police policy pollution polo pond pony pool pop population porch porridge port portrait position post pot potion pottery poverty powder power prayer prediction president pressure price priest prince princess "
    "principle prison privacy prize problem process producer product profession professor profile profit program progress promise property protest province psychology public pudding pump pumpkin puppet puppy purple purpose purse puzzle python quality quantum quarry quarter queen question "
    "quilt quiz rabbit raccoon race radar radiation radio radish raft rail railway rain rainbow raisin ranch rating raven razor reaction reader reality reason rebel receipt reception record recycling reef referee reflection refugee region reindeer relation relative relief religion "
    "rent repair report republic reptile request research resort resource response restaurant result revenue review revolution rhythm ribbon rice rider rifle ring ritual road roast robin rock rodent role roof room root rope route router royal rubber ruby rug rugby rule rum runner rust "
    "sack saddle safari safety sail saint salmon salon salt sample sandal sandwich sapphire satin saturday sauce sauna sausage scale scandal scarf scene schedule scheme scholar science scientist scissors score scorpion scout screen screw script seafood seagull search season seat second secret "
    "secretary security seed senate senior sentence september series sermon server service session shadow shampoo shape shark sheep sheet shelf shell shelter sheriff shield shift ship shock shop shore shoulder shovel show shower shrimp sibling side signal silence silk silly sink sister site size "
    "skateboard skeleton ski skill skin skirt skull sky slave sleep sleeve slice slipper slope smart smell smile smoke snack snail snake snow soap social society sock soda software soil soldier solution song sound source south space spaghetti spark sparrow speaker species speech speed "
    "spell spice spider spinach spirit sponge spoon sport spring spy square squirrel stadium staff stage stair stamp state station statistics statue steak steam steel stem stereo stew stick stitch stock stomach stone stool store stork story stove stranger strategy straw strawberry stream "
    "street strength stress string strike student studio style submarine suburb success sugar suit suitcase summer summit sun sunday sunflower sunrise sunset supermarket supper surface surfing surgeon surgery surprise survey sushi suspect swallow swamp swan sweat sweater sweet swimming sword "
    "symbol symphony syrup system table tablet tail tailor talent tallest tangerine tank tape target taste tattoo taxi teacher team teapot tear technology teenager telephone telescope television temperature tenant tennis tent term terrace territory test textbook texture theater theme theory "
    "therapy thermometer thief thigh thing thousand thread throat throne thumb thunder thursday tide tie timber time tin tip tire tissue title toast toaster tobacco toe toilet tomb tongue tool tooth topic torch tornado tortoise total touch tour tourist towel tower town toy tractor trade tradition "
    "traffic tragedy trail trailer transport trap trash travel treasure treaty tree trial triangle tribe trick trip trophy trouble trousers truck trumpet trunk trust truth tuesday tuna turkey turtle tutorial twin type typhoon umbrella uncle uniform union unit universe university upgrade user "
    "vacation valley value van vanilla variety vase vegetable vehicle velvet verb version vest veteran video village vine vinegar violence visitor vitamin vocabulary voice volcano volleyball volume vote voyage vulture waffle wage waist waiter wall wallet walnut walrus war wardrobe warning warrior washer "
    "wasp waste watch water waterfall watermelon wave wax wealth weapon wedding wednesday weed week weekend weight west wheat wheel whiskey whisper whistle width wife wildlife willow winner winter wire wisdom witch witness wolf woman wonder wood wool word work worker workshop world worm wrist writer "
    "yacht yard year yeast yellow yesterday yoga yogurt youth zebra zero zipper zone zoo zucchini asyncio docker kubernetes linux windows android iphone tesla google netflix spotify toyota nokia samsung pytorch numpy javascript typescript postgres sqlite redis nginx github bitcoin ethereum wikipedia"
)
EN_PROPER = words.split(
    "Naples Venice Florence Milan Turin Lyon Nice Marseille Bordeaux Geneva Zurich Basel Bern Munich Hamburg Cologne Frankfurt Dresden Leipzig Prague Warsaw Krakow Budapest Bucharest Sofia Belgrade Zagreb Ljubljana Bratislava Riga Tallinn Vilnius Minsk Kyiv Lviv Moscow Helsinki Stockholm "
    "Copenhagen Bergen Reykjavik Edinburgh Glasgow Manchester Liverpool Bristol Oxford Cambridge Leeds Cardiff Belfast Cork Lisbon Porto Seville Valencia Barcelona Bilbao Granada Malaga Brussels Antwerp Ghent Amsterdam Rotterdam Utrecht Luxembourg Monaco Malta Istanbul Ankara Izmir Tehran Baghdad Dubai "
    "Doha Riyadh Jerusalem Beirut Amman Damascus Tunis Algiers Casablanca Marrakesh Dakar Accra Kampala Kigali Harare Lusaka Durban Johannesburg Kolkata Chennai Hyderabad Bangalore Jaipur Karachi Lahore Dhaka Colombo Kathmandu Yangon Manila Cebu Saigon Taipei Busan Kyoto Nagoya Sapporo Hiroshima Fukuoka "
    "Melbourne Brisbane Perth Adelaide Auckland Wellington Vancouver Montreal Ottawa Calgary Quebec Houston Dallas Austin Phoenix Miami Atlanta Philadelphia Detroit Portland Honolulu Anchorage Havana Kingston Panama Caracas Medellin Montevideo Brasilia Salvador Recife Cusco Asuncion Everest Kilimanjaro "
    "Sahara Amazon Danube Rhine Thames Nile Mississippi Atlantic Pacific Arctic Antarctica Africa Asia Europe Jupiter Saturn Neptune Uranus Pluto Einstein Newton Darwin Mozart Beethoven Chopin Picasso Rembrandt Shakespeare Hamlet Tolstoy Dante Homer Plato Aristotle Cleopatra Napoleon Lincoln Gandhi Mandela Churchill "
    "Rex Bella Luna Max Charlie Lucy Cooper Bailey Milo Oliver Sophia Isabella Mia Amelia Harper Evelyn Abigail Ella Elizabeth Camila Avery Scarlett Madison Layla Penelope Nora Riley Lily Eleanor Hannah Lillian Addison Aubrey Stella Natalie Violet Savannah Brooklyn Claire Skylar Anna Caroline Genesis Aaliyah "
    "Liam Noah Elijah William James Benjamin Lucas Mason Ethan Alexander Jacob Michael Daniel Logan Jackson Sebastian Aiden Matthew Samuel Joseph Carter Owen Wyatt John Luke Gabriel Anthony Isaac Dylan Grayson Levi Julian Christopher Joshua Andrew Lincoln Mateo Ryan Jaxon Nathan Aaron Isaiah Thomas Charles Caleb "
    "Josiah Christian Hunter Eli Jonathan Connor Landon Adrian Asher Cameron Theodore Jeremiah Hudson Robert Easton Nolan Nicholas Ezra Colton Angel Jordan Dominic Austin Adam Elias Jose Brayden Jameson Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson "
    "Anderson Taylor Moore Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Rivera Campbell Mitchell Roberts Müller Schmidt Schneider Fischer Weber Dubois Moreau Laurent Rossi Ferrari Esposito Bianchi Novak Kowalski"
)
ZH_WORDS = words.split(
    "人工智能 量子计算机 机器学习 深度学习 区块链 比特币 云计算 大数据 物联网 自动驾驶 新能源汽车 电动车 充电桩 光伏发电 核聚变 航天飞机 空间站 黑洞 引力波 暗物质 恐龙化石 考古发现 长城 故宫 颐和园 天坛 兵马俑 敦煌 莫高窟 九寨沟 张家界 桂林山水 黄山 泰山 华山 峨眉山 庐山 西湖 洞庭湖 鄱阳湖 青海湖 长江 黄河 珠江 三峡 "
    "北京烤鸭 火锅 麻辣烫 小龙虾 红烧肉 宫保鸡丁 糖醋排骨 水煮鱼 饺子 包子 馒头 油条 豆浆 豆腐脑 煎饼果子 羊肉串 兰州拉面 热干面 螺蛳粉 臭豆腐 月饼 粽子 汤圆 年糕 奶茶 绿茶 红茶 普洱 龙井 白酒 啤酒 葡萄酒 咖啡馆 甜品店 蛋糕 冰淇淋 披萨 汉堡 薯条 寿司 牛排 沙拉酱 橄榄油 酱油 陈醋 花椒 八角 生姜 葱花 香菜 芹菜 菠菜 白菜 萝卜 冬瓜 "
    "南瓜 黄瓜 茄子 西兰花 蘑菇 木耳 海带 虾仁 螃蟹 鲈鱼 三文鱼 鸡蛋 牛奶 酸奶 蜂蜜 核桃 花生 芝麻 草莓 樱桃 葡萄 香蕉 橙子 柠檬 西瓜 哈密瓜 猕猴桃 芒果 榴莲 荔枝 龙眼 石榴 柿子 枣子 桃子 李子 杏子 梨子 菠萝 椰子 春节 元宵节 清明节 端午节 七夕 中秋节 重阳节 国庆节 劳动节 儿童节 圣诞节 情人节 母亲节 父亲节 "
    "唐朝 宋朝 明朝 清朝 秦始皇 汉武帝 唐太宗 成吉思汗 康熙 乾隆 孔子 老子 庄子 孟子 李白 杜甫 苏轼 白居易 曹雪芹 鲁迅 老舍 巴金 莫言 红楼梦 西游记 水浒传 三国演义 聊斋志异 诗经 论语 道德经 孙子兵法 本草纲目 清明上河图 京剧 昆曲 相声 小品 书法 国画 剪纸 刺绣 陶瓷 青花瓷 太极拳 功夫 围棋 麻将 风筝 灯笼 旗袍 汉服 "
    "篮球 乒乓球 羽毛球 排球 高尔夫 游泳 滑雪 滑冰 跳水 体操 举重 拳击 击剑 射箭 登山 攀岩 冲浪 潜水 瑜伽 健身 跑步 马拉松 奥运会 世界杯 亚运会 冠军 教练 裁判 运动员 体育馆 电视剧 纪录片 动画片 综艺 演唱会 音乐节 话剧 芭蕾 交响乐 钢琴曲 古筝 琵琶 二胡 笛子 唢呐 吉他手 歌手 导演 演员 编剧 摄影师 画家 作家 诗人 记者 主持人 "
    "医院 门诊 挂号 体检 感冒 发烧 咳嗽 头痛 失眠 高血压 糖尿病 心脏病 近视 牙疼 过敏 疫苗接种 中医 针灸 推拿 养生 减肥 营养 维生素 蛋白粉 幼儿园 小学 中学 大学 研究生 博士 教授 讲师 课程 作文 英语 数学题 物理实验 化学反应 生物学 地理 历史课 政治 体育课 图书 词典 铅笔 橡皮 书包 黑板 教室 宿舍 食堂 操场 毕业论文 奖学金 公务员 面试 简历 "
    "房价 租房 装修 家具 沙发床 衣柜 书桌 台灯 窗帘 地板 瓷砖 油漆 水管 电线 空调 冰箱 洗衣机 电饭煲 微波炉 吸尘器 热水器 电视机 投影仪 音响 耳机 键盘 鼠标 显示器 显卡 处理器 内存 硬盘 路由器 手机壳 充电宝 数据线 平板电脑 笔记本 打印纸 摄像头 无人机 智能手表 手环 眼镜 雨鞋 围巾 手套 帽子 皮鞋 运动鞋 衬衫 牛仔裤 连衣裙 羽绒服 毛衣 "
    "地铁站 公交车 出租车 高速公路 红绿灯 停车场 加油站 驾照 车险 二手车 摩托车 自行车道 电梯 天桥 隧道 码头 轮船 游艇 飞机票 登机牌 行李箱 护照号码 签证材料 旅行社 导游 民宿 青年旅社 酒店预订 景点门票 迪士尼 动物园 植物园 水族馆 游乐场 公园 广场 超市 菜市场 商场 便利店 药店 书店 花店 理发店 洗衣店 银行卡 信用卡 支付宝 微信 淘宝 京东 抖音 "
    "贷款利率 公积金 社保 养老金 个人所得税 增值税 发票 报销 股票行情 基金定投 黄金价格 外汇 期货 债券 保险理赔 合同范本 律师咨询 离婚 遗产 户口 身份证 结婚证 驾驶证 台风 暴雨预警 地震 洪水 干旱 雾霾 空气质量 紫外线 气温 湿度 降雨量 日出时间 月食 流星雨 彗星 星座 生肖 黄历 姓名 风水 梦境 心理学 哲学 宗教 佛教 道教 寺庙 教堂 "
    "熊猫 老虎 狮子 豹子 狐狸 刺猬 松鼠 猴子 猩猩 长颈鹿 斑马 河马 犀牛 袋鼠 考拉 骆驼 驴子 绵羊 山羊 奶牛 鸽子 麻雀 燕子 喜鹊 乌鸦 猫头鹰 孔雀 天鹅 鹦鹉 鳄鱼 乌龟 青蛙 蛇 蜥蜴 蜗牛 蚂蚁 蜜蜂 蜻蜓 蝉 蟋蟀 蜘蛛 蝎子 鲨鱼 海豚 章鱼 水母 珊瑚 牡丹 菊花 荷花 梅花 兰花 桂花 茉莉 百合 郁金香 向日葵 薰衣草 银杏 柳树 梧桐 樟树 仙人掌 "
    "赵云 诸葛亮 关羽 张飞 刘备 曹操 孙权 周瑜 貂蝉 武则天 杨贵妃 王羲之 张衡 祖冲之 李时珍 詹天佑 钱学森 袁隆平 屠呦呦 杨振宁 欧阳娜娜 司马光 上官婉儿 诸葛瑾 慕容复 欧阳锋 郭靖 黄蓉 令狐冲 任盈盈 段誉 虚竹 乔峰 小龙女 张无忌 赵敏 韦小宝 陈家洛 王小波 余华 刘慈欣 贾宝玉 林黛玉 薛宝钗 孙悟空 猪八戒 沙僧 唐僧 武松 鲁智深"
)
ZH_MORE_PLACES = words.split(
    "济南 合肥 福州 南昌 石家庄 太原 沈阳 长春 南宁 贵阳 兰州 西宁 银川 乌鲁木齐 呼和浩特 海口 三亚 珠海 佛山 东莞 惠州 中山 汕头 温州 宁波 绍兴 嘉兴 湖州 金华 台州 无锡 常州 南通 扬州 徐州 镇江 泉州 漳州 烟台 威海 潍坊 洛阳 开封 襄阳 宜昌 岳阳 桂林 柳州 北海 遵义 大理 丽江 绵阳 乐山 咸阳 延安 大同 承德 秦皇岛 唐山 保定 锦州 吉林 齐齐哈尔 "
    "浙江 江苏 广东 福建 湖南 湖北 河南 河北 山东 山西 陕西 甘肃 青海 宁夏 内蒙古 西藏 广西 贵州 江西 安徽 辽宁 黑龙江 浦东 徐汇 朝阳 海淀 天河 南山 迪拜 莫斯科 柏林墙 慕尼黑 米兰 威尼斯 巴塞罗那 阿姆斯特丹 布鲁塞尔 维也纳 布拉格 华沙 雅典 伊斯坦布尔 孟买 新德里 吉隆坡 雅加达 马尼拉 河内 大阪 京都 札幌 釜山 墨尔本 奥克兰 温哥华 多伦多 "
    "洛杉矶 旧金山 西雅图 芝加哥 波士顿 迈阿密 墨西哥城 里约热内卢 布宜诺斯艾利斯 开普敦 内罗毕 卡萨布兰卡 喜马拉雅山 撒哈拉沙漠 亚马逊河 尼罗河 太平洋 大西洋 印度洋 北极 南极 珠穆朗玛峰 富士山 阿尔卑斯山 多瑙河 莱茵河 塞纳河 泰晤士河"
)
_TWO_BACK: dict[str, list[str]] = defaultdict(list)
for _word in (*EN_WORDS, *(name.lower() for name in EN_PROPER if name.isascii())):
    _padded = f"^^{_word}$"
    for _place in range(2, len(_padded)):
        _TWO_BACK[_padded[_place - 2 : _place]].append(_padded[_place])
_HAN = tuple(sorted({c for text in (*ZH_WORDS, *ZH_MORE_PLACES) for c in text} | set(words.COMMON_HAN)))


def likely_word(rng: Random) -> str:
    """Letters as they follow each other in English: ``capter``, ``wolation``; three letters at least."""
    while True:
        text = ""
        pair = "^^"
        while len(text) < 12:
            letter = rng.choice(_TWO_BACK[pair])
            if letter == "$":
                break
            text += letter
            pair = pair[1] + letter
        if len(text) > 2:
            return text


def any_han(rng: Random, low: int = 1, high: int = 4) -> str:
    """Characters in no order: mostly ones people write, sometimes any of the 20,902 of Unicode's first block."""
    return "".join(
        rng.choice(_HAN) if rng.random() < 0.75 else chr(rng.randint(0x4E00, 0x9FA5))
        for _ in range(rng.randint(low, high))
    )


def wild(rng: Random, language: Language) -> str:
    """A word to copy that the basic lists do not have."""
    drawn = rng.random()
    if language == "en":
        if drawn < 0.4:
            return rng.choice(EN_WORDS)
        if drawn < 0.6:
            return rng.choice(EN_PROPER)
        word = likely_word(rng)
        if drawn < 0.85:
            return word
        if drawn < 0.95:
            return word.capitalize()
        return rng.choice((word.upper(), f"{word}{rng.randint(1, 99)}", f"{word}-{likely_word(rng)}", f"{word.capitalize()}{likely_word(rng).capitalize()}", f"{word}é", f"{word}'s"))  # fmt: skip
    if drawn < 0.45:
        return rng.choice(ZH_WORDS)
    if drawn < 0.6:
        return rng.choice(ZH_MORE_PLACES)
    if drawn < 0.9:
        return any_han(rng)
    return rng.choice((rng.choice(EN_PROPER), rng.choice(EN_WORDS).upper(), likely_word(rng), f"{any_han(rng)}{rng.randint(1, 999)}", f"{likely_word(rng)}{any_han(rng)}"))  # fmt: skip


def wild_phrase(rng: Random, language: Language, most: int = 5) -> str:
    """A few such words, in English with the small words between them that queries have."""
    count = rng.randint(1, most)
    if language == "zh":
        parts = [wild(rng, language) for _ in range(min(count, 3))]
        return rng.choice(("", "", "的", "")).join(parts)
    parts = [wild(rng, language)]
    for _ in range(count - 1):
        if rng.random() < 0.3:
            parts.append(
                rng.choice(
                    (
                        "in",
                        "of",
                        "the",
                        "for",
                        "with",
                        "to",
                        "on",
                        "from",
                        "at",
                        "a",
                        "is",
                        "near",
                        "by",
                        "in the",
                        "of the",
                    )
                )
            )
        parts.append(wild(rng, language) if rng.random() < 0.85 else words.word(rng, language))
    return " ".join(parts)
